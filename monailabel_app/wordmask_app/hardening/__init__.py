"""What keeps MONAI Label's own routes and datastore from reading, writing or losing what they must not."""
