//! The AAP stand-in as a program.

fn main() {}
