//! The policy engine: calculate, rules, render, apply, verdict.

pub mod model;
