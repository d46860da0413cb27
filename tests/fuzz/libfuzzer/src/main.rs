//! libFuzzer over one target of `tests/fuzz`, named by `PGHC_FUZZ_TARGET`. With `PGHC_FUZZ_SEEDS=DIR`
//! it first writes the inputs to start from into that directory; `-runs=0` ends it then. (A target
//! that ends the process itself is a finding to libFuzzer.)

#![no_main]

#[path = "../../targets.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let wanted = std::env::var("PGHC_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    let target = TARGETS.iter().find(|target| target.name == wanted);
    let target = target.unwrap_or_else(|| panic!("PGHC_FUZZ_TARGET is one of {names:?}"));
    if let Some(folder) = std::env::var_os("PGHC_FUZZ_SEEDS") {
        let seeds = (target.seeds)()
            .into_iter()
            .chain(target.words.iter().map(|it| it.as_bytes().to_vec()));
        for (number, seed) in seeds.enumerate() {
            std::fs::write(std::path::Path::new(&folder).join(format!("seed-{number}")), seed)
                .expect("written");
        }
    }
    target
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
