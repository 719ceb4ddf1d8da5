//! The command, from outside: what it prints, writes and answers.

mod broken;
mod common;
mod replayed;
