# SPDX-License-Identifier: Apache-2.0
"""What is promised of other projects, cell by cell, and the tests that show it."""

from __future__ import annotations

from typing import NamedTuple

CONVERT = "tests/core/conversion/test_convert.py::test_every_format_and_back_loses_no_bit"
FULL = "tests/parity/test_convert_torch.py"
TORCH = "tests/neighbours/test_torch_libraries.py"
PADDLEX = "tests/neighbours/test_paddlex.py"
PAGE = "tests/neighbours/test_page.py"
LOGS = "tests/neighbours/test_log_readers.py"
PPCLS = "tests/cls/test_ppcls.py"
SCRIPTS = "tests/seg/paddleseg/test_paddleseg_scripts.py"
ADAPTER = "tests/seg/paddleseg/test_adapter.py"
EXPORTS = ("tests/core/exporting/test_export.py", "tests/cls/plugins/test_export.py",
           "tests/seg/plugins/test_export.py")

#: distributions whose versions a row shows
NEIGHBOURS = {
    "PaddleClas": ("paddleclas",), "PaddleSeg": ("paddleseg",), "PaddleX": ("paddlex",),
    "transformers": ("transformers", "torch"), "timm": ("timm", "torch"), "paddle.hub": ("paddlepaddle",),
    "onnxruntime": ("onnxruntime", "paddle2onnx"), "OpenVINO": ("openvino",), "VisualDL": ("visualdl",),
    "TensorBoard": ("tensorboard", "tensorboardX"),
}
#: the variable that names a clone of a neighbour's repository, for cells whose tests run its scripts
CLONES = {"PaddleClas": "PADDLECLAS_HOME", "PaddleSeg": "PADDLESEG_HOME"}


class Cell(NamedTuple):
    """One promise: to neighbour, direction (in, out, used), the environment that has it, tests, and in words.

    tests: files or tests of pytest; of one that ends in `[WORD]` the cases whose name holds that word.  clone: whether
    they need a clone of the neighbour's repository.
    """

    neighbour: str
    direction: str
    environment: str
    tests: tuple[str, ...]
    english: str
    chinese: str
    clone: bool = False


CELLS = (
    Cell("PaddleClas", "in", "ours", (f"{CONVERT}[paddleclas]",),
         "its BEiT files are read, and written again without losing a bit",
         "读取它的 BEiT 权重文件，再写回时逐位不变"),
    Cell("PaddleClas", "out", "ours", ("tests/cls/test_convert_ppcls.py",),
         "weights that the wheel's own class loads, with our logits (class-token classifiers)",
         "写出的权重可由其 wheel 自己的类加载，logits 与我们相同（使用 [CLS] token 的分类器）"),
    Cell("PaddleClas", "out", "ours", (f"{PPCLS}::test_the_wheel_builds_every_model_by_its_name",
                                       f"{PPCLS}::test_a_fine_tuned_file_is_loaded_whole_and_strictly"),
         "the wheel builds our models by name and loads our files", "其 wheel 按名称构建我们的模型，并加载我们的文件"),
    Cell("PaddleClas", "used", "ours",
         (f"{PPCLS}::test_train_resume_eval_infer_and_export_with_unmodified_scripts",
          f"{PPCLS}::test_paddleclas_and_our_loop_agree_to_the_image"),
         "a clone's unmodified train, eval, infer and export scripts; same top-1 as ours",
         "克隆仓库中未经修改的 train、eval、infer、export 脚本；top-1 与我们相同", clone=True),
    Cell("PaddleSeg", "used", "ours", (f"{ADAPTER}::test_one_update_with_everything_the_yaml_names",
                                       f"{ADAPTER}::test_registering_twice_changes_nothing_and_a_foreign_name_is_refused"),
         "the wheel builds and trains our components by name", "其 wheel 按名称构建并训练我们的组件"),
    Cell("PaddleSeg", "used", "ours",
         (f"{SCRIPTS}::test_train_val_predict_and_export_run_unmodified_and_count_as_we_do",),
         "a clone's unmodified train, val, predict and export scripts; same confusion matrix as ours",
         "克隆仓库中未经修改的 train、val、predict、export 脚本；混淆矩阵与我们相同", clone=True),
    Cell("PaddleX", "out", "ours", ("tests/core/exporting/test_paddlex_folder.py",),
         "`inference.json`, `.pdiparams`, `.yml`; what PaddleX cannot run is refused",
         "`inference.json`、`.pdiparams`、`.yml`；PaddleX 无法运行的模型会被拒绝"),
    Cell("PaddleX", "used", "paddlex", (f"{PADDLEX}::test_its_classifier_gives_our_classes_at_every_size",
                                        f"{PADDLEX}::test_its_command_line_runs_ours",
                                        f"{PAGE}::test_the_lines_for_paddlex_name_our_classes"),
         "its classifier: same classes and probabilities, from Python and from its command line",
         "它的图像分类：类别和概率相同，Python 与命令行均可"),
    Cell("PaddleX", "used", "paddlex", (f"{PADDLEX}::test_its_segmenter_gives_our_labels_by_windows_at_every_size",
                                        f"{PADDLEX}::test_its_segmenter_refuses_to_resize_to_one_size"),
         "its segmenter: same label maps at every size, by sliding windows",
         "它的语义分割：任意尺寸的标签图相同，使用滑窗"),
    Cell("PaddleX", "used", "paddlex", (f"{PADDLEX}::test_its_predictor_of_features_gives_our_means",),
         "its predictor of features: same mean features, scaled to length 1", "它的图像特征：平均特征相同，模长为 1"),
    Cell("PaddleX", "used", "paddlex", (f"{PADDLEX}::test_its_pipelines_and_its_server_give_our_answers",),
         "its pipelines and its server (classification, segmentation): same answers",
         "它的产线与服务（分类、分割）：结果相同"),
    Cell("transformers", "in", "ours", (f"{CONVERT}[huggingface]",),
         "BEiT folders are read, and written again without losing a bit", "读取 BEiT 模型目录，再写回时逐位不变"),
    Cell("transformers", "out", "peers", (f"{TORCH}::test_transformers_pipeline_of_classification_gives_our_classes",
                                          f"{TORCH}::test_transformers_pipeline_of_features_gives_our_features",
                                          f"{PAGE}::test_the_lines_for_transformers_and_timm_name_our_classes"),
         "a folder with config, preprocessor and class names; its pipelines give our classes and features",
         "包含配置、预处理与类别名称的目录；其 pipeline 给出与我们相同的类别和特征"),
    Cell("transformers", "used", "peers", (f"{FULL}::test_transformers_gives_our_logits",),
         "its class gives our logits at full size", "它的类在完整尺寸下给出与我们相同的 logits"),
    Cell("timm", "in", "ours", (f"{CONVERT}[timm]",),
         "state dicts are read, and written again without losing a bit", "读取 state dict，再写回时逐位不变"),
    Cell("timm", "out", "peers", (f"{TORCH}::test_timm_loads_a_folder_with_its_preprocessing_and_class_names",
                                  f"{TORCH}::test_timm_loads_a_lone_file_as_a_checkpoint_or_by_an_overlay"),
         "state dicts, and a folder with `pretrained_cfg` and class names that `create_model` loads",
         "state dict，以及 `create_model` 可加载的、含 `pretrained_cfg` 与类别名称的目录"),
    Cell("timm", "used", "peers", (f"{FULL}::test_timm_gives_our_logits",),
         "its class gives our logits at full size", "它的类在完整尺寸下给出与我们相同的 logits"),
    Cell("paddle.hub", "used", "ours", ("tests/core/test_hub.py",),
         "lists, describes and loads our models from a local clone", "从本地克隆的仓库列出、说明并加载我们的模型"),
    Cell("onnxruntime", "out", "ours", tuple(f"{path}[onnx]" for path in EXPORTS),
         "ONNX files of tokenizers, classifiers, features and segmenters: same answers",
         "tokenizer、分类器、特征和分割模型的 ONNX 文件：结果相同"),
    Cell("OpenVINO", "out", "ours",
         ("tests/core/runners/test_runners.py::test_openvino_gives_the_live_models_answers_at_any_batch_size",),
         "runs the same ONNX files: same answers", "运行同样的 ONNX 文件：结果相同"),
    Cell("VisualDL", "out", "ours", (f"{LOGS}::test_visualdls_reader_finds_scalars_and_figures",),
         "logs are read by its own reader", "日志可由它自己的读取器读取"),
    Cell("TensorBoard", "out", "peers", (f"{LOGS}::test_tensorboards_reader_finds_scalars_and_figures",),
         "logs are read by its own reader, a continued run's steps once",
         "日志可由它自己的读取器读取，恢复训练的步只出现一次"),
)
