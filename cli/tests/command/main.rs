//! The command, from outside: what it prints, writes and answers.

mod booted;
mod broken;
mod chained;
mod common;
mod converted;
mod laid;
mod replayed;
mod shown;
