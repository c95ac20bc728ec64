//! Tensors on a device.

use std::fmt;

use lmc_graph::{DType, Literal, TensorType};

use crate::client::Device;
use crate::error::{Error, ErrorCode, PjrtError, Result};
use crate::memory::HostMemory;
use crate::pjrt::api::buffer_type;
use crate::pjrt::calls::BufferHandle;

/// A tensor on a device. Freed when dropped; an execution that still uses its memory keeps that alive.
///
/// The contents may be computed yet when a buffer is made: only reading waits, and gives the error of the computation
/// if there is one.
pub struct Buffer {
    pub(crate) handle: BufferHandle,
    ty: TensorType,
}

impl Buffer {
    /// Copies a tensor to a device.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn from_literal(device: &Device, literal: &Literal) -> Result<Buffer> {
        Buffer::from_bytes(device, literal.ty().clone(), literal.bytes())
    }

    /// Copies a tensor to a device from its bytes: row-major, little-endian, one byte (0 or 1) a boolean. The bytes
    /// are not needed after the call.
    ///
    /// # Errors
    /// When the number of bytes is not that of the type, or the device is out of memory.
    pub fn from_bytes(device: &Device, ty: TensorType, bytes: &[u8]) -> Result<Buffer> {
        if bytes.len() != ty.num_bytes() {
            return Err(Error::ByteCount { ty, found: bytes.len() });
        }
        let dims: Vec<i64> = ty.shape.iter().map(|&size| size as i64).collect();
        let handle = device.handle.buffer_from_host(bytes, type_number(ty.dtype), ty.dtype.size(), &dims)?;
        Ok(Buffer { handle, ty })
    }

    /// Makes a tensor of memory of this process, row-major, little-endian, one byte (0 or 1) a boolean: without a copy
    /// where the device computes in it.
    ///
    /// # Errors
    /// When the number of bytes is not that of the type, or the device is out of memory.
    pub fn from_memory(device: &Device, ty: TensorType, memory: HostMemory) -> Result<Buffer> {
        if memory.len() != ty.num_bytes() {
            return Err(Error::ByteCount { ty, found: memory.len() });
        }
        let dims: Vec<i64> = ty.shape.iter().map(|&size| size as i64).collect();
        let handle = device.handle.buffer_from_memory(memory, type_number(ty.dtype), ty.dtype.size(), &dims)?;
        Ok(Buffer { handle, ty })
    }

    /// A buffer that the plugin returned, with the type that its program states.
    pub(crate) fn from_handle(handle: BufferHandle, ty: TensorType) -> Buffer {
        Buffer { handle, ty }
    }

    /// Its type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Copies the tensor to the host, row-major whatever its layout on the device. Waits for its contents.
    ///
    /// # Errors
    /// When the computation of the contents failed.
    pub fn to_literal(&self) -> Result<Literal> {
        let mut bytes = self.handle.to_host(self.ty.num_bytes())?;
        // With at most one dimension above 1 all orders are the same.
        if self.ty.shape.iter().filter(|&&size| size != 1).count() > 1 {
            let minor_to_major = self.handle.minor_to_major()?;
            if !minor_to_major.iter().rev().copied().eq(0..self.ty.rank() as i64) {
                bytes = row_major(&self.ty, &minor_to_major, &bytes);
            }
        }
        let size = bytes.len();
        Literal::from_bytes(self.ty.clone(), bytes).map_err(|_| Error::ByteCount { ty: self.ty.clone(), found: size })
    }

    /// Waits until the contents are there.
    ///
    /// # Errors
    /// When the computation of the contents failed.
    pub fn wait(&self) -> Result<()> {
        Ok(self.handle.wait()?)
    }

    /// Whether reading would not have to wait: the contents, or the error of their computation, are there.
    ///
    /// # Errors
    /// When the plugin cannot say.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.handle.is_ready()?)
    }

    /// Bytes that the buffer takes on the device, with the padding of its layout there.
    ///
    /// # Errors
    /// When the plugin cannot say.
    pub fn size_on_device(&self) -> Result<usize> {
        Ok(self.handle.size_on_device()?)
    }

    /// The address of its memory on the device, to see whether two buffers share it. Waits for nothing.
    ///
    /// # Errors
    /// When the plugin cannot say.
    pub fn device_address(&self) -> Result<usize> {
        Ok(self.handle.address()?)
    }

    /// Compares the type with what the plugin says. Called where the plugin made the buffer, in debug builds.
    pub(crate) fn check_type(&self) -> Result<()> {
        let found = tensor_type(self.handle.element_type()?, &self.handle.dimensions()?)?;
        if found == self.ty {
            return Ok(());
        }
        let message = format!("a program that states {} as its output returned {found}", self.ty);
        Err(PjrtError { function: "PJRT_LoadedExecutable_Execute", code: ErrorCode::Internal, message }.into())
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.ty)
    }
}

/// Brings the elements of a dense tensor, whose dimensions lie in memory in the order `minor_to_major`, into row-major
/// order.
fn row_major(ty: &TensorType, minor_to_major: &[i64], bytes: &[u8]) -> Vec<u8> {
    let size = ty.dtype.size();
    // The distance in bytes between neighbours in every dimension.
    let mut strides = vec![0; ty.rank()];
    let mut stride = size;
    for &dimension in minor_to_major {
        let dimension = dimension as usize;
        strides[dimension] = stride;
        stride *= ty.shape[dimension];
    }
    let mut index = vec![0; ty.rank()];
    let mut result = Vec::with_capacity(bytes.len());
    for _ in 0..ty.num_elements() {
        let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        result.extend_from_slice(&bytes[at..at + size]);
        for dimension in (0..ty.rank()).rev() {
            index[dimension] += 1;
            if index[dimension] < ty.shape[dimension] {
                break;
            }
            index[dimension] = 0;
        }
    }
    result
}

/// The number of an element type in `PJRT_Buffer_Type`.
pub(crate) fn type_number(dtype: DType) -> i32 {
    match dtype {
        DType::Bool => buffer_type::PRED,
        DType::I8 => buffer_type::S8,
        DType::I16 => buffer_type::S16,
        DType::I32 => buffer_type::S32,
        DType::I64 => buffer_type::S64,
        DType::U8 => buffer_type::U8,
        DType::U16 => buffer_type::U16,
        DType::U32 => buffer_type::U32,
        DType::U64 => buffer_type::U64,
        DType::BF16 => buffer_type::BF16,
        DType::F16 => buffer_type::F16,
        DType::F32 => buffer_type::F32,
        DType::F64 => buffer_type::F64,
    }
}

/// The tensor type with this number of `PJRT_Buffer_Type` and these dimensions.
///
/// # Errors
/// When lmc has no such element type.
pub(crate) fn tensor_type(number: i32, dims: &[i64]) -> Result<TensorType> {
    let dtype =
        DType::ALL.into_iter().find(|&dtype| type_number(dtype) == number).ok_or(Error::ElementType { number })?;
    // Dimensions of a static shape are not negative.
    Ok(TensorType::new(dtype, dims.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{client, compile};

    /// Distinct bit patterns of every element, and for booleans the two there are.
    fn sample(dtype: DType) -> Literal {
        let ty = TensorType::new(dtype, [2, 3]);
        let bytes: Vec<u8> =
            (0..ty.num_bytes()).map(|i| if dtype == DType::Bool { i as u8 % 2 } else { i as u8 }).collect();
        Literal::from_bytes(ty, bytes).expect("as many bytes")
    }

    #[test]
    fn every_element_type_goes_there_and_back() {
        for dtype in DType::ALL {
            let literal = sample(dtype);
            let buffer = client().buffer(&literal).expect("a buffer");
            assert_eq!(buffer.to_literal().expect("read"), literal);
            assert_eq!(buffer.size_on_device().expect("a size"), literal.ty().num_bytes());
            // Through a program, so that the plugin and the program agree about the type.
            let tensor = format!("tensor<2x3x{dtype}>");
            let program = compile(&format!("%a: {tensor}"), &tensor, &format!("return %a : {tensor}"));
            assert_eq!(program.outputs(), [literal.ty().clone()]);
            let outputs = program.execute(vec![(&buffer).into()]).expect("executed");
            assert_eq!(outputs[0].to_literal().expect("read"), literal);
        }
    }

    #[test]
    fn shapes() {
        for shape in [vec![], vec![1], vec![0], vec![2, 0, 3], vec![2, 1, 3, 1, 2]] {
            let ty = TensorType::new(DType::F32, shape);
            let elements: Vec<f64> = (0..ty.num_elements()).map(|i| i as f64).collect();
            let literal = Literal::from_f64s(ty, &elements);
            assert_eq!(client().buffer(&literal).expect("a buffer").to_literal().expect("read"), literal);
        }
    }

    #[test]
    fn reading_is_row_major_whatever_the_layout() {
        let elements: Vec<f32> = (0..24u8).map(f32::from).collect();
        let literal = Literal::new([2, 3, 4], &elements);
        for layout in ["{2,1,0}", "{0,1,2}", "{1,2,0}", "{0,2,1}"] {
            let result = format!("tensor<2x3x4xf32> {{mhlo.layout_mode = \"{layout}\"}}");
            let program = compile("%a: tensor<2x3x4xf32>", &result, "return %a : tensor<2x3x4xf32>");
            let buffer = client().buffer(&literal).expect("a buffer");
            let outputs = program.execute(vec![buffer.into()]).expect("executed");
            let minor_to_major = outputs[0].handle.minor_to_major().expect("a layout");
            let written: Vec<String> = minor_to_major.iter().map(i64::to_string).collect();
            assert_eq!(format!("{{{}}}", written.join(",")), layout);
            assert_eq!(outputs[0].to_literal().expect("read"), literal, "{layout}");
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        let error = Buffer::from_bytes(client().device(), TensorType::new(DType::F32, [3]), &[0; 8]);
        assert_eq!(error.map(|_| ()).expect_err("refused").to_string(), "f32[3] takes 12 bytes, found 8");
    }

    #[test]
    fn memory_becomes_a_buffer_where_it_is() {
        let ty = TensorType::new(DType::F32, [1024]);
        let mut memory = HostMemory::zeros(ty.num_bytes()).expect("memory");
        memory[4..8].copy_from_slice(&2f32.to_le_bytes());
        let address = memory.as_ptr() as usize;
        let buffer = Buffer::from_memory(client().device(), ty, memory).expect("a buffer");
        assert_eq!(buffer.device_address().expect("an address"), address);
        // A program that is given it writes there, too.
        let tensor = "tensor<1024xf32>";
        let donated = format!("%a: {tensor} {{tf.aliasing_output = 0 : i32}}");
        let body = format!("%0 = stablehlo.add %a, %a : {tensor}\n return %0 : {tensor}");
        let doubling = compile(&donated, tensor, &body);
        let result = doubling.execute(vec![buffer.into()]).expect("executed").remove(0);
        assert_eq!(result.to_literal().expect("read").elements::<f32>()[..3], [0.0, 4.0, 0.0]);
        assert_eq!(result.device_address().expect("an address"), address);
        let none =
            Buffer::from_memory(client().device(), TensorType::new(DType::F32, [0]), HostMemory::zeros(0).unwrap());
        assert_eq!(none.expect("a buffer").to_literal().expect("read").bytes(), b"");
        let error = Buffer::from_memory(
            client().device(),
            TensorType::new(DType::F32, [3]),
            HostMemory::zeros(8).expect("memory"),
        );
        assert_eq!(error.map(|_| ()).expect_err("refused").to_string(), "f32[3] takes 12 bytes, found 8");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_a_buffer_is_given_back() {
        let bytes = 64 << 20;
        let before = crate::process_memory_bytes().expect("VmRSS");
        for _ in 0..32 {
            let mut memory = HostMemory::to_fill(bytes).expect("memory");
            memory.fill(1);
            drop(
                Buffer::from_memory(client().device(), TensorType::new(DType::U8, [bytes]), memory).expect("a buffer"),
            );
        }
        let after = crate::process_memory_bytes().expect("VmRSS");
        // What other tests take meanwhile is less than this.
        assert!(after < before + (16 * bytes) as u64, "{before} to {after}");
    }

    #[test]
    fn an_unknown_element_type_is_an_error() {
        // 16 is PJRT_Buffer_Type_F8E5M2.
        let error = tensor_type(16, &[2]).expect_err("unknown");
        assert!(error.to_string().contains("type number 16"), "{error}");
    }
}
