//! The peak arithmetic rates of devices: what utilization is a fraction of.

use crate::config::Precision;

/// Peak rates of one device, in units of 10^12 operations a second, without sparsity. `None` is a type that the device
/// has no fast products in.
struct Peaks {
    /// The device's name, as its driver and the PJRT plugin report it.
    name: &'static str,
    /// Products of bfloat16, accumulated in float32.
    bfloat16: Option<f64>,
    /// Products of float32 rounded to TF32, which is what XLA computes float32 products in where there are such units.
    tf32: Option<f64>,
    /// float32 outside of tensor cores.
    float32: f64,
}

const fn tensor(name: &'static str, bfloat16: f64, tf32: f64, float32: f64) -> Peaks {
    Peaks { name, bfloat16: Some(bfloat16), tf32: Some(tf32), float32 }
}

const fn before_ampere(name: &'static str, float32: f64) -> Peaks {
    Peaks { name, bfloat16: None, tf32: None, float32 }
}

/// From NVIDIA's public data sheets and architecture papers; where they give figures with 2:4 sparsity, half of them.
const PEAKS: &[Peaks] = &[
    // HGX B200 and GB200 NVL72 data sheets, a GPU.
    tensor("NVIDIA B200", 2250.0, 1125.0, 75.0),
    tensor("NVIDIA GB200", 2500.0, 1250.0, 80.0),
    // H200 data sheet.
    tensor("NVIDIA H200", 989.5, 494.5, 67.0),
    tensor("NVIDIA H200 NVL", 835.5, 417.5, 60.0),
    // H100 data sheet.
    tensor("NVIDIA H100 80GB HBM3", 989.5, 494.5, 67.0),
    tensor("NVIDIA H100 PCIe", 756.5, 378.0, 51.0),
    tensor("NVIDIA H100 NVL", 835.5, 417.5, 60.0),
    // A100 data sheet.
    tensor("NVIDIA A100-SXM4-40GB", 312.0, 156.0, 19.5),
    tensor("NVIDIA A100-SXM4-80GB", 312.0, 156.0, 19.5),
    tensor("NVIDIA A100-PCIE-40GB", 312.0, 156.0, 19.5),
    tensor("NVIDIA A100 80GB PCIe", 312.0, 156.0, 19.5),
    // A10, A40 and RTX A6000 data sheets.
    tensor("NVIDIA A10", 125.0, 62.5, 31.2),
    tensor("NVIDIA A40", 149.7, 74.8, 37.4),
    tensor("NVIDIA RTX A6000", 154.8, 77.4, 38.7),
    // L4, L40 and L40S data sheets.
    tensor("NVIDIA L4", 121.0, 60.0, 30.3),
    tensor("NVIDIA L40", 181.05, 90.5, 90.5),
    tensor("NVIDIA L40S", 362.05, 183.0, 91.6),
    // RTX Blackwell, Ada and GA102 architecture papers; the rate with float32 accumulation, half of that with float16.
    tensor("NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8),
    tensor("NVIDIA GeForce RTX 5080", 112.6, 56.3, 56.3),
    tensor("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
    tensor("NVIDIA GeForce RTX 4080", 97.5, 48.7, 48.7),
    tensor("NVIDIA GeForce RTX 3090", 71.0, 35.6, 35.6),
    tensor("NVIDIA GeForce RTX 3090 Ti", 80.0, 40.0, 40.0),
    // RTX PRO Blackwell architecture paper; products are not halved with float32 accumulation.
    tensor("NVIDIA RTX PRO 6000 Blackwell", 503.8, 251.9, 125.0),
    tensor("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8, 251.9, 125.0),
    // V100 data sheet.
    before_ampere("Tesla V100-SXM2-16GB", 15.7),
    before_ampere("Tesla V100-SXM2-32GB", 15.7),
    before_ampere("Tesla V100-PCIE-16GB", 14.0),
    before_ampere("Tesla V100-PCIE-32GB", 14.0),
    // T4 data sheet.
    before_ampere("Tesla T4", 8.1),
];

/// The peak rate of `device` for products in `precision`, in operations a second: `given`, in units of 10^12, unless it
/// is 0, else what the table says of a device of exactly this name. `None` where that is nothing: a part of a GPU, a
/// variant for laptops, a CPU, whose peak depends on clocks nobody reports.
pub fn peak_flops(device: &str, precision: Precision, given: f64) -> Option<f64> {
    if given > 0.0 {
        return Some(given * 1e12);
    }
    let peaks = PEAKS.iter().find(|peaks| peaks.name == device)?;
    let tera = match precision {
        Precision::Bfloat16 => peaks.bfloat16?,
        Precision::Float32 => peaks.tf32.unwrap_or(peaks.float32),
    };
    Some(tera * 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_that_of_the_device_and_type_or_unknown() {
        use Precision::{Bfloat16, Float32};
        for (device, precision, given, expected) in [
            ("NVIDIA H100 80GB HBM3", Bfloat16, 0.0, Some(989.5e12)),
            ("NVIDIA H100 80GB HBM3", Float32, 0.0, Some(494.5e12)),
            ("NVIDIA H100 PCIe", Bfloat16, 0.0, Some(756.5e12)),
            ("NVIDIA L4", Bfloat16, 0.0, Some(121e12)),
            ("NVIDIA L40S", Bfloat16, 0.0, Some(362.05e12)),
            ("Tesla T4", Float32, 0.0, Some(8.1e12)),
            ("Tesla T4", Bfloat16, 0.0, None),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", Bfloat16, 0.0, None),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", Bfloat16, 0.0, None),
            ("cpu", Float32, 0.0, None),
            ("cpu", Float32, 1.5, Some(1.5e12)),
            ("NVIDIA L4", Bfloat16, 100.0, Some(100e12)),
        ] {
            assert_eq!(peak_flops(device, precision, given), expected, "{device}, {precision}, {given}");
        }
    }

    #[test]
    fn the_table_is_sound() {
        for (i, peaks) in PEAKS.iter().enumerate() {
            assert!(PEAKS[..i].iter().all(|before| before.name != peaks.name), "{} twice", peaks.name);
            // Half the bits are at least twice as fast, up to rounding in the data sheets.
            if let (Some(bfloat16), Some(tf32)) = (peaks.bfloat16, peaks.tf32) {
                assert!(bfloat16 >= 1.97 * tf32 && tf32 >= peaks.float32, "{}", peaks.name);
            }
        }
    }
}
