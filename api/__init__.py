"""The HTTP side: routes that translate, call once and answer; the page, the client and the command line."""
