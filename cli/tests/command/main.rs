//! The command, from outside: what it prints, writes and answers.

mod booted;
mod broken;
mod common;
mod replayed;
