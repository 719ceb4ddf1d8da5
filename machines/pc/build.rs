//! Links the image: at its own addresses, with nothing of the host's in it.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let target = std::env::var("TARGET").expect("cargo sets it");
    for file in ["link.ld", "build.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    for argument in arguments(&target) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-T{folder}/link.ld");
}

/// For a target of Linux a C compiler links, and hands these on; for a bare
/// one the linker is called itself.
fn arguments(target: &str) -> &'static [&'static str] {
    if target.contains("-linux-") {
        &[
            "-nostartfiles",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
            "-Wl,--gc-sections",
            "-Wl,-z,max-page-size=0x1000",
            "-Wl,-z,norelro",
        ]
    } else {
        &["--no-pie", "--build-id=none", "--gc-sections", "-zmax-page-size=0x1000", "-znorelro"]
    }
}
