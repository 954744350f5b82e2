"""The finders, which fill storage: `work` moves what a source holds, `rsync` reads rsync's logs."""
