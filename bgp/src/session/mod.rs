//! Sessions: the state machine and the rules around it. Everything here is a function of its arguments.

pub(crate) mod collision;
pub(crate) mod fsm;
pub(crate) mod negotiate;
pub(crate) mod restart;
