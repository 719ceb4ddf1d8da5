//! One tool for those who work on vmalloc: `cargo xtask help` says what it does.

mod bench;
mod embedders;
mod guard;
mod install;
mod interface;
mod mutants;
mod narrow;
mod pc;
mod project;
mod stages;
mod steps;
mod tidy;

use anyhow::Result;
use project::Project;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    match args.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("test", wanted)) => steps::run(&Project::open()?, &stages::named(wanted)?),
        Some(("tidy", [])) => {
            let report = tidy::look_at(&Project::open()?)?;
            print!("{report}");
            Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(("interface", [])) => interface::write(&Project::open()?).map(|()| ExitCode::SUCCESS),
        Some(("install", [flag, prefix])) if flag == "--prefix" => install::run(&Project::open()?, prefix.as_ref()),
        Some(("bench", [])) => bench::run(&Project::open()?, None),
        Some(("bench", [what])) => bench::run(&Project::open()?, Some(what)),
        Some(("mutants", args)) => mutants::run(&Project::open()?, args),
        None | Some(("help" | "-h" | "--help", _)) => {
            print!("{}", help());
            Ok(ExitCode::SUCCESS)
        }
        Some(_) => anyhow::bail!("no such command: {}\n\n{}", args.join(" "), help()),
    }
}

fn help() -> String {
    let mut text = String::from(
        "cargo xtask test [STAGE…]   everything that CI runs, or only these stages\n\
         cargo xtask tidy            the last stage alone: checks over the tree\n\
         cargo xtask interface       writes the interface.txt of each crate that is published\n\
         cargo xtask install --prefix DIR   the library for programs in C, its headers and its pkg-config files\n\
         cargo xtask bench [WHAT]    instructions, counted by callgrind: space (the address layer), pairs (whole calls)\n\
         cargo xtask help            this\n",
    );
    text += mutants::ABOUT;
    text += "\nStages:\n";
    for stage in stages::ALL {
        text += &format!("  {:<9} {}\n", stage.name, stage.about);
    }
    text
}
