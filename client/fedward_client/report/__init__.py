"""The report on a site's data: one offline page, with pictures of patients, that stays at the site."""
