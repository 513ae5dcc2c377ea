//! The policy engine: calculate, rules, render, apply, verdict.

pub mod apply;
pub mod calc;
pub mod model;
pub mod render;
pub mod rules;
pub mod verdict;
