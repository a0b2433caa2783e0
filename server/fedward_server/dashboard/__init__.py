"""The hub's pages for people, in English and Chinese, light and dark: they load nothing from elsewhere."""
