//! The kernels in `examples/`. They are no members of the workspace, as the kernel of an embedder is
//! none: each has its own edition, resolver and lock file.

use crate::project::{Project, Target};
use crate::steps::succeed;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

const FOLDER: &str = "examples";
/// Packages that the lock file of an embedder gains at most, our own among them.
const GAINED: usize = 6;

/// The root of each, by name of its folder.
pub fn targets(root: &Path) -> Vec<Target> {
    let folders = fs::read_dir(root.join(FOLDER)).into_iter().flatten().filter_map(Result::ok);
    let kernels = folders.filter(|folder| folder.path().join("Cargo.toml").exists());
    let names = kernels.map(|folder| folder.file_name().to_string_lossy().into_owned());
    let mut targets: Vec<Target> = names.map(target).collect();
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    targets
}

fn target(name: String) -> Target {
    let path = format!("{FOLDER}/{name}/src/main.rs");
    Target { package: name.clone(), name, kind: "embedder".into(), path }
}

/// Looks at each as at our own code, builds it from its own lock file, and runs it.
pub fn run(project: &Project) -> Result<()> {
    for kernel in targets(&project.root) {
        light(&lock(&project.root.join(FOLDER).join(&kernel.name))?).with_context(|| kernel.path.clone())?;
        let manifest = format!("{FOLDER}/{}/Cargo.toml", kernel.name);
        let at = ["--manifest-path", &manifest];
        succeed(project.cargo().arg("fmt").args(at).arg("--check"))?;
        let how = ["--locked", "--target-dir", "target/embedders"];
        succeed(project.cargo().arg("clippy").args(at).args(how).args(["--", "-D", "warnings"]))?;
        succeed(project.cargo().arg("run").args(at).args(how))?;
    }
    Ok(())
}

/// The lock file has few packages besides the kernel itself.
fn light(lock: &[Package]) -> Result<()> {
    let gained = lock.len().saturating_sub(1);
    let names: Vec<_> = lock.iter().map(|package| &*package.name).collect();
    ensure!(gained <= GAINED, "{gained} packages in the lock file of an embedder, at most {GAINED}: {names:?}");
    Ok(())
}

/// A package that a lock file names.
#[derive(PartialEq, Eq, Debug)]
struct Package {
    name: String,
    version: String,
}

/// What the lock file in a folder names.
fn lock(folder: &Path) -> Result<Vec<Package>> {
    let path = folder.join("Cargo.lock");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(packages(&text))
}

fn packages(lock: &str) -> Vec<Package> {
    let field = |block: &str, name: &str| {
        let start = format!("{name} = \"");
        let value = block.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"'));
        value.unwrap_or_default().to_owned()
    };
    let blocks = lock.split("[[package]]\n").skip(1);
    blocks.map(|block| Package { name: field(block, "name"), version: field(block, "version") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project")
    }

    fn locks() -> Vec<Vec<Package>> {
        let kernels = targets(root());
        kernels.iter().map(|kernel| lock(&root().join(FOLDER).join(&kernel.name)).expect("a lock file")).collect()
    }

    #[test]
    fn the_lock_file_of_an_embedder_gains_at_most_six_packages() {
        assert!(locks().len() >= 2);
        for lock in locks() {
            light(&lock).expect("few packages");
            assert!(lock.iter().any(|package| package.name == "vmalloc"));
            assert!(lock.iter().any(|package| package.name == "vmalloc-x86_64"));
        }
        let seven = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n".repeat(8);
        assert!(light(&packages(&seven)).unwrap_err().to_string().starts_with("7 packages"));
    }

    /// So they are built without a network where the project is.
    #[test]
    fn an_embedder_locks_the_versions_that_the_project_locks() {
        let ours = lock(root()).expect("a lock file");
        for lock in locks() {
            let others: Vec<_> = lock.iter().filter(|package| !ours.contains(package)).collect();
            assert!(matches!(others[..], [kernel] if kernel.name.ends_with("-kernel")), "{others:?}");
        }
    }

    #[test]
    fn one_embedder_has_edition_2018_and_so_resolver_1() {
        let manifest = fs::read_to_string(root().join("examples/bootloader/Cargo.toml")).expect("a manifest");
        assert!(manifest.contains("edition = \"2018\"") && !manifest.contains("resolver ="));
    }
}
