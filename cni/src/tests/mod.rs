//! The verbs against the real kernel, with a small agent that speaks the control protocol. (The real agent is in the
//! end-to-end tests; here the wiring and the shim's behaviour towards an agent in any state are what is tested.)

mod agent;
mod verbs;
