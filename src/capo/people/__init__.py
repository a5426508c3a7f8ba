"""Human studies: the page on which people compare images, and the votes that come back."""
