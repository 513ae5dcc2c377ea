//! Sessions: the state machine and what surrounds it.

pub(crate) mod fsm;
