// A program without Python: loads the op library that is its argument, and checks kerneldna::conv against at::conv2d.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <cstdio>
#include <dlfcn.h>

using at::Tensor;

static Tensor expected(const Tensor &x, const Tensor &weight, const Tensor &c, const Tensor &f, const Tensor &s) {
  std::vector<Tensor> samples;
  for (int64_t n = 0; n < x.size(0); ++n) {
    Tensor scaled = (x[n] * c[n].view({-1, 1, 1})).unsqueeze(0);
    Tensor y = at::conv2d(scaled, weight * s[n], std::nullopt, 2, 1);
    samples.push_back(y[0] * f[n].view({-1, 1, 1}));
  }
  return at::stack(samples);
}

int main(int, char **arguments) {
  if (dlsym(RTLD_DEFAULT, "Py_IsInitialized")) {
    std::fprintf(stderr, "this process has Python after all\n");
    return 1;
  }
  if (!dlopen(arguments[1], RTLD_NOW)) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  Tensor x = at::randn({2, 5, 9, 7}), weight = at::randn({4, 5, 3, 3});
  Tensor c = at::rand({2, 5}), f = at::rand({2, 4}), s = at::rand({2, 3, 3});
  std::vector<int64_t> two{2, 2}, one{1, 1};
  torch::jit::Stack stack{x,   weight,     std::optional<Tensor>{}, c, f, s, two, one,
                          one, int64_t{1}, std::optional<Tensor>{}};
  c10::Dispatcher::singleton().findSchemaOrThrow("kerneldna::conv", "").callBoxed(&stack);
  Tensor y = stack.at(0).toTensor();
  if (!at::allclose(y, expected(x, weight, c, f, s), 1e-4, 1e-5)) {
    std::fprintf(stderr, "kerneldna::conv differs from at::conv2d\n");
    return 1;
  }
  std::puts("right");
  return 0;
}
