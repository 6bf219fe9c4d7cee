//! The AAP and AWX controller API.
