"""What the Butler plugins are made of: FITS files, headers, records, repositories.

Nothing here is imported before the plugin starts; `lsst.daf.butler` alone takes two seconds.
"""
