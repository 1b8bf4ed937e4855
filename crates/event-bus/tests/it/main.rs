//! The bus as its users see it.

mod delivery;
mod promises;
mod requests;
mod streams;
mod support;
