// An accelerator without a chip, for tests: a device of its own to PyTorch, with the CPU's memory and kernels.
//
// As on a GPU, tensors of it and of the CPU do not mix, and what the host wants to know has to be waited for. Both are
// seen here: an operation on tensors of both devices raises, waits and copies are counted. What it cannot show is speed,
// other kernels' rounding, and code for CUDA alone. Random numbers are those of the CPU's generator.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <atomic>
#include <set>
#include <span>

namespace {

using at::Tensor;
const at::Device DEVICE(at::DeviceType::PrivateUse1, 0);
const std::set<std::string> WAITING = {"aten::equal", "aten::is_nonzero", "aten::masked_select", "aten::nonzero",
                                       "aten::_unique2"};
const std::set<std::string> INDEXING = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};
std::atomic<int64_t> waits{0};   // of the host, for a number or a tensor of the device
std::atomic<int64_t> copies{0};  // from the host to the device

// What PyTorch asks of any device.

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* memory = bytes ? c10::alloc_cpu(bytes) : nullptr;
    return {memory, memory, raw_deleter(), DEVICE};
  }
  at::DeleterFnPtr raw_deleter() const override {
    return [](void* memory) { c10::free_cpu(memory); };
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &memory)

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device getDevice() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};
const bool registered = (at::RegisterPrivateUse1HooksInterface(new Hooks()), true);

Tensor empty(c10::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(sizes, &memory, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(sizes, strides, &memory, keys, c10::dtype_or_default(dtype));
}

const Tensor& resize(const Tensor& tensor, c10::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  const auto needed = (tensor.storage_offset() + tensor.numel()) * tensor.element_size();
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < needed) {
    auto fresh = memory.allocate(needed);
    memcpy(fresh.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(fresh));
    storage->set_nbytes(needed);
  }
  return tensor;
}

// Tensors of the CPU that share the memory of the device's, and back.

Tensor here(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
  return at::for_blob(tensor.data_ptr(), tensor.sizes()).strides(tensor.strides())
      .options(tensor.options().device(at::kCPU)).target_device(at::kCPU).make_tensor();
}

Tensor there(const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  auto made = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(DEVICE));
  if (tensor.numel()) here(made).copy_(tensor);
  return made;
}

Tensor copy_from(const Tensor& source, const Tensor& target, bool) {
  if (target.is_cpu()) waits++;
  if (source.is_cpu() && source.numel()) copies++;
  if (source.numel()) here(target).copy_(here(source));
  return target;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

at::Scalar number(const Tensor& tensor) {
  waits++;
  return here(tensor).item();
}

// What PyTorch hands to a library of the device.

Tensor convolution(const Tensor& inputs, const Tensor& weight, const std::optional<Tensor>& bias,
                   c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                   bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  const auto own_bias = bias ? std::make_optional(here(*bias)) : bias;
  return there(at::convolution_symint(here(inputs), here(weight), own_bias, stride, padding, dilation, transposed,
                                      output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& inputs, const Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  const std::vector<c10::SymInt> bias_sizes = {weight.sym_size(0)};
  auto [of_inputs, of_weight, of_bias] =
      at::convolution_backward_symint(here(gradient), here(inputs), here(weight), c10::SymIntArrayRef(bias_sizes),
                                      stride, padding, dilation, transposed, output_padding, groups, wanted);
  return {there(of_inputs), there(of_weight), there(of_bias)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& inputs, const Tensor& hidden, const Tensor& cell,
                                             const std::optional<Tensor>& bias, const std::optional<Tensor>& hidden_bias) {
  auto gates = here(inputs) + here(hidden);
  if (bias && bias->defined()) gates = gates + here(*bias) + here(*hidden_bias);
  const auto raw = gates.chunk(4, 1);
  const auto i = raw[0].sigmoid(), f = raw[1].sigmoid(), g = raw[2].tanh(), o = raw[3].sigmoid();
  const auto next = f * here(cell) + i * g;
  return {there(o * next.tanh()), there(next), there(at::cat({i, f, g, o}, 1))};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const std::optional<Tensor>& of_output,
                                                      const std::optional<Tensor>& of_cell, const Tensor& cell,
                                                      const Tensor& next, const Tensor& gates, bool has_bias) {
  const auto activated = here(gates).chunk(4, 1);
  const auto &i = activated[0], &f = activated[1], &g = activated[2], &o = activated[3];
  const auto end = here(next).tanh();
  const auto output = of_output && of_output->defined() ? here(*of_output) : at::zeros_like(end);
  auto inner = output * o * (1 - end * end);
  if (of_cell && of_cell->defined()) inner = inner + here(*of_cell);
  const auto of_gates = at::cat({inner * g * i * (1 - i), inner * here(cell) * f * (1 - f), inner * i * (1 - g * g),
                                 output * end * o * (1 - o)}, 1);
  return {there(of_gates), there(inner * f), has_bias ? there(of_gates.sum(0)) : Tensor()};
}

// All else: the CPU's kernel, on the same memory.

class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op), name_(op.schema().name()) {}

  void run(torch::jit::Stack* stack) {
    for (auto& value : top(*stack, op_.schema().arguments().size())) argument(value);
    for (const auto& tensor : on_cpu_) check(tensor);
    if (WAITING.count(name_)) waits++;
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    for (auto& value : top(*stack, op_.schema().returns().size()))
      replace(value, [this](const Tensor& tensor) { return back(tensor); });
  }

 private:
  static std::span<c10::IValue> top(torch::jit::Stack& stack, size_t count) {
    return {stack.data() + stack.size() - count, count};
  }

  template <typename Change>
  static void replace(c10::IValue& value, const Change& change) {
    if (value.isTensor()) {
      value = change(value.toTensor());
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      for (auto& tensor : tensors) tensor = change(tensor);
      value = tensors;
    }
  }

  void argument(c10::IValue& value) {
    replace(value, [this](const Tensor& tensor) { return own(tensor); });
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> tensors;
      for (const std::optional<Tensor> tensor : value.toOptionalTensorList())
        tensors.push_back(tensor && tensor->defined() ? std::make_optional(own(*tensor)) : std::nullopt);
      value = tensors;
    } else if (value.isDevice() && value.toDevice() == DEVICE) {
      value = at::Device(at::kCPU);
    }
  }

  Tensor own(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (tensor.is_cpu()) {
      on_cpu_.push_back(tensor);
      return tensor;
    }
    twins_.emplace_back(here(tensor), tensor);
    return twins_.back().first;
  }

  void check(const Tensor& tensor) const {
    if (twins_.empty() || tensor.dim() == 0) return;  // numbers may come from the CPU
    TORCH_CHECK(INDEXING.count(name_), "Expected all tensors to be on the same device, in ", name_);
    waits++;  // for a copy of the indices
  }

  Tensor back(const Tensor& tensor) const {
    for (const auto& [twin, original] : twins_) {
      if (twin.is_same(tensor)) {  // an output that the kernel may have resized
        if (tensor.sizes() != original.sizes()) original.resize_(tensor.sizes());
        if (tensor.numel() && tensor.data_ptr() != original.data_ptr()) here(original).copy_(tensor);
        return original;
      }
    }
    for (const auto& [twin, original] : twins_) {
      if (twin.is_alias_of(tensor) && twin.numel()) {  // a view
        const auto offset = (static_cast<char*>(tensor.data_ptr()) - static_cast<char*>(original.storage().mutable_data()));
        return at::cpu::as_strided(original, tensor.sizes(), tensor.strides(), offset / tensor.element_size());
      }
    }
    return tensor.defined() && tensor.is_cpu() ? there(tensor) : tensor;
  }

  const c10::OperatorHandle& op_;
  const std::string name_;
  std::vector<std::pair<Tensor, Tensor>> twins_;  // on the CPU, and on the device
  std::vector<Tensor> on_cpu_;
};

void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op).run(stack); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("as_strided", at::cpu::as_strided);
  library.impl("set_.source_Storage", [](Tensor& tensor, at::Storage source) -> Tensor& {
    const int64_t size = source.nbytes() / tensor.element_size();
    return at::cpu::set_(tensor, source, 0, size, 1);
  });
  library.impl("set_.source_Storage_storage_offset",
               [](Tensor& tensor, at::Storage source, int64_t offset, c10::IntArrayRef sizes,
                  c10::IntArrayRef strides) -> Tensor& { return at::cpu::set_(tensor, source, offset, sizes, strides); });
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", number);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
  library.impl("_thnn_fused_lstm_cell", lstm_cell);
  library.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
}

TORCH_LIBRARY(stand_in, library) {
  library.def("waits() -> int", [] { return waits.load(); });
  library.def("copies() -> int", [] { return copies.load(); });
}

}  // namespace
