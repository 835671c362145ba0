"""The networks in torch, one file per family, named by its record and imported only to build one."""
