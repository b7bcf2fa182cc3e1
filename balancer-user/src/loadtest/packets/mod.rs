//! Packets at a set rate by the kernel's generator: UDP, or TCP's SYN.
//!
//! Nothing is waited for and nothing is answered: what is judged is what was
//! sent in time, what of it the balancer counted, and how it was spread. An
//! open loop as that of requests: each packet has its moment, and one that
//! could not be sent near it is missed and never made up for. [`template`]
//! makes the frame, [`pace`] says how many are due, [`report`] and [`html`]
//! tell; these are pure. [`run`] sends.

pub mod html;
pub mod pace;
pub mod report;
pub mod run;
pub mod template;
