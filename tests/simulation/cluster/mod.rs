//! Gates between scripted clients and nodes, scripted and real ones, on links that split, delay, stall and reset.

mod binding;
mod field;
#[cfg(feature = "kcp")]
mod kcp;
mod mixed;
mod moving;
mod node;
mod passing;
mod real;
mod repeating;
mod resume;
mod slow;
