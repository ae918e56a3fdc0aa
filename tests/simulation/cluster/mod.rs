//! Gates between scripted clients and scripted nodes, on links that split, delay, stall and reset.

mod binding;
mod field;
mod node;
mod passing;
mod slow;
