//! Layouts and packet logic.
#![no_std]
