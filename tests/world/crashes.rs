//! The manager dies at every call it makes, before it is sent and after it was carried out: same end, same launches.
