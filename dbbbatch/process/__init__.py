"""Starting programs, here and at the far end; `run` is the one module that starts one."""
