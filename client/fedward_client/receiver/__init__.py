"""The PACS side of a site: fetches studies, takes what is sent, writes files into the data folder, and nothing else.

It is the one part that has a network and patients at once. So it speaks to the addresses under [pacs] of site.toml
only, imports nothing of the side that speaks to the hub, reads no image but those that it wrote, and tells no
identifier.
"""
