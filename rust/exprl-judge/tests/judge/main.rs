//! The dispatcher against real servers in this process.

mod blocking;
mod context;
mod dispatch;
mod faults;
mod hopeless;
mod ledger;
mod limits;
mod streaming;
mod support;
