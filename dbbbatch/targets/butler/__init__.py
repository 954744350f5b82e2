"""What the plugin ``butler-gen3`` is made of: FITS structure, headers, records, ingest, repositories.

Nothing here is imported before the plugin starts; `lsst.daf.butler` alone takes two seconds.
"""
