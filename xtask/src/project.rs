//! The workspace as cargo knows it: where it is, and its targets.

use crate::embedders;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The members that can be built together: all but the image.
pub const MEMBERS: &[&str] = &["--workspace", "--exclude", "vmalloc-pc"];
/// The image. Among the members its dependencies would have the features that
/// the tools ask for, `std` among them; and it has nobody to unwind to.
pub const IMAGE: &[&str] = &["--profile", "image", "-p", "vmalloc-pc"];
/// The image that is measured, as `vmalloc bench` builds it: it does not hear the library's events.
pub const MEASURED: &[&str] = &["--profile", "measured", "-p", "vmalloc-pc", DEAF];
/// Without the feature `events`.
pub const DEAF: &str = "--no-default-features";

/// A crate root: a library, a binary, a test, an example.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The package that it belongs to.
    pub package: String,
    /// Its own name.
    pub name: String,
    /// `lib`, `bin`, `test`, `example`, `bench` or `custom-build`; `embedder` for a kernel in `examples/`.
    pub kind: String,
    /// Its root file, from the project's folder.
    pub path: String,
}

/// The workspace that this tool was built in.
pub struct Project {
    /// Its folder.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub built: PathBuf,
    /// All targets of all members, and the kernels in `examples/`.
    pub targets: Vec<Target>,
}

impl Project {
    /// Asks cargo.
    pub fn open() -> Result<Project> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in a workspace")?.to_owned();
        let answer = cargo(&root)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo metadata")?;
        ensure!(answer.status.success(), "cargo metadata failed");
        let metadata: Value = serde_json::from_slice(&answer.stdout)?;
        let built = text(&metadata["target_directory"])?.into();
        let mut targets = targets(&metadata, &root)?;
        targets.extend(embedders::targets(&root));
        Ok(Project { targets, built, root })
    }

    /// A cargo to run in the project's folder.
    pub fn cargo(&self) -> Command {
        cargo(&self.root)
    }

    /// Tests of all members: of fewer, their dependencies would have fewer
    /// features, and would be built anew.
    pub fn tests(&self) -> Command {
        let mut test = self.cargo();
        test.arg("test").args(MEMBERS);
        test
    }

    /// A program that cargo has built in its `debug` folder, to run in the
    /// project's folder.
    pub fn program(&self, path: &str) -> Command {
        let mut command = Command::new(self.built.join("debug").join(path));
        command.current_dir(&self.root);
        command
    }

    /// Whether the project has the file or folder `path`.
    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    command
}

fn targets(metadata: &Value, root: &Path) -> Result<Vec<Target>> {
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        for target in package["targets"].as_array().context("no targets")? {
            let path = Path::new(text(&target["src_path"])?).strip_prefix(root)?;
            all.push(Target {
                package: text(&package["name"])?.to_owned(),
                name: text(&target["name"])?.to_owned(),
                kind: text(&target["kind"][0])?.to_owned(),
                path: path.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(all)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("cargo metadata: not a string where one belongs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_knows_its_package_its_kind_and_its_root() {
        let metadata = serde_json::json!({ "packages": [{ "name": "p", "targets": [
            { "name": "tour", "kind": ["example"], "src_path": "/here/p/examples/tour.rs" }
        ] }] });
        let [tour] = &targets(&metadata, Path::new("/here")).unwrap()[..] else { panic!("one target") };
        assert_eq!((&*tour.package, &*tour.name, &*tour.kind), ("p", "tour", "example"));
        assert_eq!(tour.path, "p/examples/tour.rs");
    }

    #[test]
    fn metadata_of_another_shape_is_an_error() {
        assert!(targets(&serde_json::json!({}), Path::new("/")).is_err());
    }
}
