"""A world as a static site: the page plays it in the browser, without a server of ours."""
