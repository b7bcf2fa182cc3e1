//! The status page: what it knows, and what of it a viewer is shown.
//!
//! A [`board::Keeper`] makes a [`board::Board`] of what the daemon's loop
//! publishes each second, beside that loop; a [`view::Viewer`] picks from it
//! what one open page asks for. Both are pure, and what a page is sent in a
//! second is bounded however many services there are: some rows, some
//! services in full, some incidents. How it is served is in
//! [`api::page`](crate::api::page).

pub mod board;
pub mod headline;
pub mod view;

#[cfg(test)]
mod tests;
