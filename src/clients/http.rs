//! HTTP as Fettle speaks it to systems it does not trust.
