"""Generated from site.proto by `make stubs`; never edited by hand."""
