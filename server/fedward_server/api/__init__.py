"""The process behind the gateway: what sites ask the hub besides rounds, and the pages that people see."""
