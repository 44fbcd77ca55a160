"""Networks as data: layers in order, one file each."""
