//! Compiles the kernels of `model/runner/device` for a build with CUDA; else there is nothing to do.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels();
}

/// `kernels.cu` as PTX, with nvcc.
#[cfg(feature = "cuda")]
fn kernels() {
    let source = "src/model/runner/device/kernels.cu";
    println!("cargo::rerun-if-changed={source}");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    let built = cudaforge::KernelBuilder::new().source_files([source]).arg("-std=c++17").arg("-O3").build_ptx();
    built.and_then(|ptx| ptx.write(out.join("ptx.rs"))).expect("nvcc compiles kernels.cu");
}
