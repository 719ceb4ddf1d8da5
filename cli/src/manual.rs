//! What the command says of itself to others: to a shell, and to `man`.

use crate::options::Options;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate};

const NAME: &str = "vmalloc";

/// Prints what `shell` needs to complete words.
pub fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut Options::command(), NAME, &mut script);
    crate::print_raw(&String::from_utf8(script)?)
}

/// The page of the manual of a command, or of all.
///
/// # Errors
/// There is no such command.
pub fn page(of: Option<&str>) -> Result<String> {
    let mut all = Options::command();
    all.build();
    let command = match of {
        None => all,
        Some(name) => {
            let found = all.find_subcommand(name).with_context(|| {
                let names: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
                format!("no command {name}; there are: {}", names.join(" "))
            })?;
            found.clone().display_name(format!("{NAME}-{name}"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options_and_examples() {
        let all = page(None).unwrap();
        let names: Vec<String> = Options::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
        for name in names.iter().filter(|name| *name != "help") {
            assert!(all.contains(&format!("vmalloc\\-{name}")), "{name}: {all}");
            let own = page(Some(name)).unwrap();
            assert!(own.starts_with(".ie") && own.contains(&format!("vmalloc\\-{name}")), "{name}: {own}");
        }
        let replay = page(Some("replay")).unwrap();
        assert!(replay.contains("trace\\-out") && replay.contains("Exit codes:"), "{replay}");
        let why = page(Some("reply")).unwrap_err().to_string();
        assert!(why.starts_with("no command reply; there are: replay boot"), "{why}");
    }
}
