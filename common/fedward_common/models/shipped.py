"""The cards of the networks that Fedward brings. Values only: importing this imports no network."""

from fedward_common.models.cards import Architecture, Choice, ModelCard, Range, Widths

_DROPOUT = Range(0.0, 0.9)
_ANY = (0, 1, 2)  # of networks that take an example as one list of numbers


def _monai(file: str, name: str, title: str, paper: str) -> Architecture:
    card = ModelCard(
        name=name,
        title=title,
        paper=paper,
        dims=(2, 3),
        min_size=32,  # halved five times
        options={"norm": "group"},
        limits={"norm": Choice(("group", "batch"))},
        batch_norm=True,
    )
    return Architecture(card=card, builder=f"fedward_common.models.{file}:{name}")


def _resnet(depth: int) -> Architecture:
    paper = "He, Zhang, Ren, Sun: Deep residual learning for image recognition. CVPR 2016, arXiv:1512.03385"
    return _monai("resnet", f"resnet{depth}", f"ResNet-{depth} (MONAI)", paper)


def _densenet(depth: int) -> Architecture:
    paper = (
        "Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional networks. CVPR 2017, arXiv:1608.06993"
    )
    return _monai("densenet", f"densenet{depth}", f"DenseNet-{depth} (MONAI)", paper)


def _boltzmann(name: str, title: str, paper: str, hidden: tuple[int, ...], most: int) -> Architecture:
    card = ModelCard(
        name=name,
        title=title,
        paper=paper,
        dims=_ANY,
        min_size=1,
        options={"hidden": hidden, "visible": "binary", "steps": 1, "dropout": 0.0},
        limits={
            "hidden": Widths(most, 8192),
            "visible": Choice(("gaussian", "binary")),
            "steps": Range(1, 100),
            "dropout": _DROPOUT,
        },
        layers="hidden",
    )
    return Architecture(card=card, builder="fedward_common.models.dbn:build")


SHIPPED = (
    Architecture(
        card=ModelCard(
            name="alexnet",
            title="AlexNet of 2012",
            paper="Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional networks. NIPS 2012",
            dims=(2,),
            min_size=63,  # the third pooling needs 3 places
            options={"width": 4096, "dropout": 0.5},
            limits={"width": Range(16, 8192), "dropout": _DROPOUT},
        ),
        builder="fedward_common.models.alexnet:build",
    ),
    Architecture(
        card=ModelCard(
            name="enhanced-alexnet",
            title="Enhanced AlexNet: group normalisation, global pooling",
            paper="after Krizhevsky et al., NIPS 2012; Wu and He, arXiv:1803.08494; Lin et al., arXiv:1312.4400",
            dims=(2, 3),
            min_size=16,
            options={"width": 32, "dropout": 0.3},
            limits={"width": Range(8, 256), "dropout": _DROPOUT},
        ),
        builder="fedward_common.models.enhanced_alexnet:build",
    ),
    Architecture(
        card=ModelCard(
            name="small-cnn",
            title="Small network for first trials and small images",
            paper="none: three strided convolutions and global average pooling",
            dims=(2, 3),
            min_size=8,  # the least that a study may ask for
            options={"width": 16},
            limits={"width": Range(1, 256)},
        ),
        builder="fedward_common.models.small_cnn:build",
    ),
    Architecture(
        card=ModelCard(
            name="cnn-1d",
            title="Fully convolutional network for recordings and sequences",
            paper="Wang, Yan, Oates: Time series classification from scratch. IJCNN 2017, arXiv:1611.06455",
            dims=(1,),
            min_size=8,  # samples, as long as its longest kernel
            options={"width": 64, "dropout": 0.3, "pooling": "global"},
            limits={"width": Range(8, 512), "dropout": _DROPOUT, "pooling": Choice(("global", "none"))},
        ),
        builder="fedward_common.models.cnn_1d:build",
    ),
    Architecture(
        card=ModelCard(
            name="cnn-3d",
            title="Plain network for volumes (VoxCNN)",
            paper="Korolev et al.: Residual and plain convolutional neural networks for 3D brain MRI classification. "
            "ISBI 2017, arXiv:1701.06643",
            dims=(3,),
            min_size=16,  # halved four times
            options={"width": 8, "dropout": 0.7},
            limits={"width": Range(1, 128), "dropout": _DROPOUT},
        ),
        builder="fedward_common.models.cnn_3d:build",
    ),
    Architecture(
        card=ModelCard(
            name="unet",
            title="U-Net",
            paper="Ronneberger et al.: U-Net. MICCAI 2015, arXiv:1505.04597; Çiçek et al.: 3D U-Net. MICCAI 2016, "
            "arXiv:1606.06650",
            dims=(2, 3),
            min_size=8,  # the least that a study may ask for
            options={"norm": "group", "width": 16, "depth": 4},
            limits={"norm": Choice(("group", "batch")), "width": Range(1, 256), "depth": Range(1, 6)},
            batch_norm=True,
            tasks=("segmentation",),
        ),
        builder="fedward_common.models.unet:build",
    ),
    Architecture(
        card=ModelCard(
            name="voxelmorph",
            title="VoxelMorph, diffeomorphic",
            paper="Balakrishnan et al.: VoxelMorph. IEEE TMI 38, 2019, arXiv:1809.05231; Dalca et al.: Unsupervised "
            "learning of probabilistic diffeomorphic registration. MedIA 57, 2019, arXiv:1903.03545",
            dims=(2, 3),
            min_size=8,  # the least that a study may ask for
            options={"width": 16, "depth": 4, "integration": 7},
            limits={"width": Range(1, 256), "depth": Range(1, 6), "integration": Range(0, 16)},
            tasks=("registration",),
        ),
        builder="fedward_common.models.voxelmorph:build",
    ),
    Architecture(
        card=ModelCard(
            name="mlp",
            title="Multilayer perceptron for tables",
            paper="Rumelhart, Hinton, Williams: Learning representations by back-propagating errors. Nature 323, 1986",
            dims=(0,),
            min_size=0,
            options={"width": 64, "depth": 2, "dropout": 0.2},
            limits={"width": Range(1, 8192), "depth": Range(0, 16), "dropout": _DROPOUT},
            tasks=("classification", "survival"),
        ),
        builder="fedward_common.models.mlp:build",
    ),
    Architecture(
        card=ModelCard(
            name="cox",
            title="Cox's proportional hazards for tables",
            paper="Cox: Regression models and life-tables. J. R. Stat. Soc. B 34, 1972",
            dims=(0,),
            min_size=0,
            tasks=("survival",),
        ),
        builder="fedward_common.models.cox:build",
    ),
    Architecture(
        card=ModelCard(
            name="logistic-regression",
            title="Multinomial logistic regression for tables",
            paper="Cox: The regression analysis of binary sequences. J. R. Stat. Soc. B 20, 1958",
            dims=(0,),
            min_size=0,
        ),
        builder="fedward_common.models.logistic_regression:build",
    ),
    _boltzmann(
        "rbm",
        "Restricted Boltzmann machine",
        "Hinton: Training products of experts by minimizing contrastive divergence. Neural Computation 14, 2002",
        (256,),
        1,
    ),
    _boltzmann(
        "dbn",
        "Deep belief network",
        "Hinton, Osindero, Teh: A fast learning algorithm for deep belief nets. Neural Computation 18, 2006",
        (256, 64),
        8,
    ),
    Architecture(
        card=ModelCard(
            name="sparse-autoencoder",
            title="Stacked sparse autoencoder",
            paper="Ng: Sparse autoencoder. CS294A lecture notes, 2011; Bengio et al.: Greedy layer-wise training. 2006",
            dims=_ANY,
            min_size=1,
            options={"hidden": (256, 64), "sparsity": 0.05, "penalty": 3.0, "dropout": 0.0},
            limits={
                "hidden": Widths(8, 8192),
                "sparsity": Range(0.001, 0.999),
                "penalty": Range(0.0, 1000.0),
                "dropout": _DROPOUT,
            },
            layers="hidden",
        ),
        builder="fedward_common.models.sparse_autoencoder:build",
    ),
    Architecture(
        card=ModelCard(
            name="lista",
            title="Sparse coding network (LISTA)",
            paper="Gregor, LeCun: Learning fast approximations of sparse coding. ICML 2010",
            dims=_ANY,
            min_size=1,
            options={"atoms": 256, "penalty": 0.1, "steps": 3, "dropout": 0.0},
            limits={
                "atoms": Range(1, 8192),
                "penalty": Range(0.0, 1000.0),
                "steps": Range(0, 100),
                "dropout": _DROPOUT,
            },
            layers=1,
        ),
        builder="fedward_common.models.lista:build",
    ),
    Architecture(
        card=ModelCard(
            name="retinanet",
            title="RetinaNet: a feature pyramid, one anchor a place",
            paper="Lin et al.: Focal loss for dense object detection. ICCV 2017, arXiv:1708.02002",
            tasks=("detection",),
            dims=(2, 3),
            min_size=16,
            options={"width": 16, "levels": 3, "anchor": 8},
            limits={"width": Range(2, 128), "levels": Range(1, 5), "anchor": Range(4, 128)},
        ),
        builder="fedward_common.models.retinanet:RetinaNet",
    ),
    *map(_resnet, (10, 18, 34, 50)),
    *map(_densenet, (121, 169)),
)
