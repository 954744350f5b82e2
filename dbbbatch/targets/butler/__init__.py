"""What the plugin ``butler-gen3`` is made of: FITS files, headers, records, repositories.

Nothing here is imported before the plugin starts; `lsst.daf.butler` alone takes two seconds.
"""
