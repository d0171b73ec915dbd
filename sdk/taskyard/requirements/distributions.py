"""Which distribution of the public index brings a well-known module, for interpreters that do not have it.

No name here follows from a rule: each is one of the most downloaded of the index, or described there as the
project that is meant. Where the table of the Pants build system (`default_module_mapping.py`, Apache 2.0) has the
module, too, the two agree. A module that is not listed is asked for.
"""

from __future__ import annotations

_OTHER_NAMES = {
    "absl": "absl-py",
    "airflow": "apache-airflow",
    "antlr4": "antlr4-python3-runtime",
    "attr": "attrs",
    "ax": "ax-platform",
    "azure.core": "azure-core",
    "azure.identity": "azure-identity",
    "azure.keyvault.secrets": "azure-keyvault-secrets",
    "azure.storage.blob": "azure-storage-blob",
    "azure.storage.filedatalake": "azure-storage-file-datalake",
    "azure.storage.queue": "azure-storage-queue",
    "bayes_opt": "bayesian-optimization",
    "Bio": "biopython",
    "bs4": "beautifulsoup4",
    "bson": "pymongo",
    "cairo": "pycairo",
    "cattr": "cattrs",
    "Crypto": "pycryptodome",
    "Cryptodome": "pycryptodomex",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "github": "PyGithub",
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud.aiplatform": "google-cloud-aiplatform",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.bigquery_storage": "google-cloud-bigquery-storage",
    "google.cloud.datastore": "google-cloud-datastore",
    "google.cloud.exceptions": "google-cloud-core",
    "google.cloud.firestore": "google-cloud-firestore",
    "google.cloud.logging": "google-cloud-logging",
    "google.cloud.pubsub": "google-cloud-pubsub",
    "google.cloud.pubsub_v1": "google-cloud-pubsub",
    "google.cloud.secretmanager": "google-cloud-secret-manager",
    "google.cloud.speech": "google-cloud-speech",
    "google.cloud.storage": "google-cloud-storage",
    "google.cloud.texttospeech": "google-cloud-texttospeech",
    "google.cloud.translate": "google-cloud-translate",
    "google.cloud.vision": "google-cloud-vision",
    "google.genai": "google-genai",
    "google.generativeai": "google-generativeai",
    "google.oauth2": "google-auth",
    "google.protobuf": "protobuf",
    "google.resumable_media": "google-resumable-media",
    "googleapiclient": "google-api-python-client",
    "graphql": "graphql-core",
    "gridfs": "pymongo",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "grpc_tools": "grpcio-tools",
    "haiku": "dm-haiku",
    "hydra": "hydra-core",
    "imblearn": "imbalanced-learn",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "kafka": "kafka-python",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "mysql.connector": "mysql-connector-python",
    "nacl": "PyNaCl",
    "open_clip": "open-clip-torch",
    "OpenGL": "PyOpenGL",
    "OpenSSL": "pyOpenSSL",
    "opentelemetry.context": "opentelemetry-api",
    "opentelemetry.metrics": "opentelemetry-api",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.trace": "opentelemetry-api",
    "orbax.checkpoint": "orbax-checkpoint",
    "osgeo": "GDAL",
    "paho": "paho-mqtt",
    "PIL": "Pillow",
    "pkg_resources": "setuptools<81",
    "pl_bolts": "lightning-bolts",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pynvml": "nvidia-ml-py",
    "pyro": "pyro-ppl",
    "pythonjsonlogger": "python-json-logger",
    "pytorch_grad_cam": "grad-cam",
    "pywt": "PyWavelets",
    "pyximport": "Cython",
    "rest_framework": "djangorestframework",
    "ruamel.yaml": "ruamel.yaml",
    "serial": "pyserial",
    "shapefile": "pyshp",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "skvideo": "scikit-video",
    "slugify": "python-slugify",
    "snowflake.connector": "snowflake-connector-python",
    "socks": "PySocks",
    "speech_recognition": "SpeechRecognition",
    "tlz": "toolz",
    "tree": "dm-tree",
    "umap": "umap-learn",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "win32api": "pywin32",
    "wx": "wxPython",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}

_SAME_NAMES = frozenset(
    """
    accelerate addict aiofiles aiohttp albumentations ale_py altair anthropic anyio apscheduler arrow arviz
    astropy asyncpg attrs audioread auto_gptq autograd av awkward beartype bitsandbytes blosc bokeh boto3
    botocore botorch bottleneck brotli cachetools captum catboost cattrs certifi cffi chainer chardet chess
    click cloudpickle cma cmaes colorama coloredlogs colorlog comet_ml configargparse confluent_kafka contourpy
    coremltools cryptography cvxpy cython cytoolz dacite dask datasets decord deepdiff deepspeed descartes dgl
    diffusers dill distributed django dm_control dm_env docker docopt efficientnet_pytorch einops elasticsearch
    emoji evaluate fabric fairscale faker fastai fastapi fastcore fastparquet fasttext filelock fire flair
    flash_attn flask flask_cors flax fontTools fsspec ftfy fvcore gensim geopandas geopy gevent gluonts
    google_auth_oauthlib gpytorch gradio graphviz gspread gunicorn gym gymnasium h5py hdbscan holoviews httpx
    huggingface_hub hyperopt hypothesis icecream igraph imageio imgaug importlib_metadata importlib_resources
    iopath IPython isort jax jaxlib jinja2 jiwer joblib jpeg4py jsonargparse jsonlines jsonschema kaggle keras
    keras_tuner kornia lazy_loader Levenshtein librosa lightgbm lightning lightning_fabric lightning_utilities
    llvmlite lmdb lmfit loguru lpips lxml lz4 markdown matplotlib matplotlib_inline memory_profiler
    ml_collections ml_dtypes mlflow mmcv mmengine monai msgpack mujoco mypy natsort neptune netCDF4 networkx
    nevergrad nibabel nltk numba numexpr numpy nvtx omegaconf onnx onnxruntime openai OpenEXR openpyxl
    opt_einsum optax optuna orjson packaging pandas paramiko patsy peft pexpect pint platformdirs plotly pluggy
    polars pooch prefect prettytable prometheus_client prompt_toolkit psutil psycopg pwlf py3nvml pyarrow
    pybind11 pycocotools pycuda pydantic pydantic_settings pydicom pydot pydub pyfaidx pygame pygments pymc
    pymongo pymysql pyparsing pypdf pyperclip pyproj pysam pyspark pytest pytorch_lightning
    pytorch_metric_learning pytorch_msssim pytz pyvista qdrant_client questionary rasterio ray redis regex
    reportlab requests rich rouge_score s3fs sacrebleu sacred safetensors scapy scipy seaborn
    segmentation_models_pytorch selenium sentence_transformers sentencepiece sentry_sdk seqeval setuptools shap
    shapely simplejson six sklearn_crfsuite sklearn_pandas smart_open soundfile spacy sqlalchemy sqlmodel
    stable_baselines3 stanza starlette statsmodels streamlit submitit sympy tables tabulate tenacity tensorboard
    tensorboardX tensorflow tensorflow_addons tensorflow_datasets tensorflow_hub tensorflow_probability
    tensorflow_text tensorstore termcolor textblob tf_keras tiktoken timm tokenizers toml tomli tomlkit toolz
    torch torch_cluster torch_ema torch_fidelity torch_geometric torch_optimizer torch_scatter torch_sparse
    torchao torchaudio torchdata torchinfo torchmetrics torchsde torchsummary torchtext torchtyping torchvision
    tornado tqdm traitlets transformers trimesh triton trl tsfresh typer typing_extensions tyro ujson uvicorn
    visdom vllm wandb watchdog webdataset websockets werkzeug wheel wrapt xarray xformers xgboost xlrd
    xlsxwriter yacs yarl yfinance zarr zstandard
    """.split()  # noqa: SIM905 - a list would have a line for each
)


def distribution_of(module: str) -> str | None:
    """Return what to install for a dotted module name; None where that is not known for certain."""
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    named = next((_OTHER_NAMES[prefix] for prefix in prefixes if prefix in _OTHER_NAMES), None)
    return named or (parts[0].replace("_", "-") if parts[0] in _SAME_NAMES else None)
