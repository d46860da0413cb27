//! Compiles `api/proto` without needing `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../api/proto/pghc.proto");
    let files = protox::compile(["pghc.proto"], ["../../api/proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
