//! A guest, as QEMU's command line.

use super::{Board, Guest};
use std::ffi::OsString;
use std::path::Path;

/// The words between the settings and the commands.
const COMMANDS: &str = "--";

/// What QEMU is started with to run `image` as `guest`, with its file, if it
/// has one, at `module`.
pub fn flags(guest: &Guest, image: &Path, module: Option<&Path>) -> Vec<OsString> {
    let mut words = Words::default();
    let board = match guest.board {
        Board::Q35 => "q35",
        Board::Microvm => "microvm,acpi=on",
    };
    words.add("-M", board);
    words.add("-accel", "tcg");
    words.add("-cpu", if guest.la57 { "max,la57=on" } else { "max,la57=off" });
    words.add("-smp", guest.cpus.to_string());
    words.add("-m", format!("{}k", guest.memory >> 10));
    if guest.nodes > 1 {
        nodes(&mut words, guest);
    }
    if guest.exact {
        words.add("-icount", "shift=0,sleep=off");
    }
    for word in ["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"] {
        words.0.push(word.into());
    }
    words.add("-device", "isa-debug-exit,iobase=0xf4,iosize=4");
    words.add("-kernel", image);
    if let Some(module) = module {
        words.add("-initrd", module);
    }
    words.add("-append", guest.command_line());
    words.0
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.extend([flag.into(), value.into()]);
    }
}

/// Memory in equal parts, the last one larger; CPUs in turn.
fn nodes(words: &mut Words, guest: &Guest) {
    let whole = guest.memory >> 20;
    let part = whole / u64::from(guest.nodes);
    for node in 0..guest.nodes {
        let last = node + 1 == guest.nodes;
        let size = if last { whole - part * u64::from(node) } else { part };
        words.add("-object", format!("memory-backend-ram,id=node{node},size={size}M"));
        let cpus: String = (node..guest.cpus).step_by(guest.nodes as usize).map(|cpu| format!(",cpus={cpu}")).collect();
        words.add("-numa", format!("node,nodeid={node},memdev=node{node}{cpus}"));
    }
}

impl Guest {
    /// What the image is told: settings, then commands.
    pub fn command_line(&self) -> String {
        let settings = self.settings.join(" ");
        if self.commands.is_empty() {
            return settings;
        }
        let line = format!("{settings} {COMMANDS} {}", self.commands.join("; "));
        line.trim_start().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(guest: &Guest, module: Option<&Path>) -> String {
        let words = flags(guest, Path::new("/image"), module);
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_guest_becomes_a_command_line() {
        let guest = Guest { cpus: 4, commands: vec!["mem".into(), "tests".into()], ..Guest::default() };
        assert_eq!(
            line(&guest, None),
            "-M q35 -accel tcg -cpu max,la57=off -smp 4 -m 262144k -display none -nodefaults -no-user-config -no-reboot \
             -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel /image -append -- mem; tests"
        );
        let more = Guest { board: Board::Microvm, la57: true, exact: true, settings: vec!["a=1".into()], ..guest };
        let said = line(&more, Some(Path::new("/file")));
        for part in ["-M microvm,acpi=on ", " max,la57=on ", " -icount shift=0,sleep=off ", " -initrd /file "] {
            assert!(said.contains(part), "{said}");
        }
        assert!(said.ends_with(" -append a=1 -- mem; tests"), "{said}");
    }

    #[test]
    fn nodes_share_memory_and_cpus() {
        let guest = Guest { cpus: 3, nodes: 2, memory: 257 << 20, ..Guest::default() };
        let said = line(&guest, None);
        let parts = "-object memory-backend-ram,id=node0,size=128M -numa node,nodeid=0,memdev=node0,cpus=0,cpus=2 \
                     -object memory-backend-ram,id=node1,size=129M -numa node,nodeid=1,memdev=node1,cpus=1 ";
        assert!(said.contains(parts), "{said}");
        assert!(!line(&Guest::default(), None).contains("-numa"));
    }

    #[test]
    fn without_commands_the_shell_listens() {
        let guest = Guest { settings: vec!["a=1".into(), "b=2".into()], ..Guest::default() };
        assert!(line(&guest, None).ends_with(" -append a=1 b=2"));
    }
}
