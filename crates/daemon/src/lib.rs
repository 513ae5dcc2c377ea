//! What both daemons share.
