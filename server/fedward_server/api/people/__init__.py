"""The API of people, for their programs and for what the pages ask by themselves: JSON and events below /api/v1.

A program logs in as a person does, by POST to /session, and sends the `csrf` that it is given in the header
X-Fedward-CSRF of whatever changes something. What may be asked, and what is answered, is in /api/v1/openapi.json.
"""

PATH = "/api/v1"
CSRF_HEADER = "x-fedward-csrf"
