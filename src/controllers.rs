//! One module per reconciled kind: observe → decide → commit → act.

pub mod patch_run;
