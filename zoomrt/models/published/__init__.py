"""Where the models' authors publish their files, and how those get here.

`records` are plain data, which each family states; `cache` looks at what is here; `fetch` brings what is not, from the
Hugging Face hub (`hub`) or a web server (`web`), under `licences` that were accepted. Nothing opens a connection but
`trt-build` without --weights, or a call of `fetch`.
"""
