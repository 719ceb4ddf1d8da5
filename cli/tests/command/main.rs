//! The command, from outside: what it prints, writes and answers.

mod booted;
mod broken;
mod chained;
mod common;
mod replayed;
mod shown;
